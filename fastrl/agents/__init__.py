"""What the algorithms' agents share: constructor, predict, learn, save, load."""
