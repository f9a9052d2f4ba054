"""The page that compares tested runs."""
