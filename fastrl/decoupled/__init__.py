"""Players and trainers in processes of their own."""
