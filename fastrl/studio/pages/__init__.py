"""The pages of the studio; each registers its addresses for a desk."""
