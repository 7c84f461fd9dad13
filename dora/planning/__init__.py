"""What a recipe will take, before anything of it starts."""
