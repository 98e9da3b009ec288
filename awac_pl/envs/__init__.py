"""Tasks, and acting in them."""
