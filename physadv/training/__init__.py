"""One training loop; a recipe is the part that differs."""
