"""What a user can do wrong, told in one line."""


class UserError(Exception):
    """An error that the user can mend: the message names the file or flag and what to do. Scripts print it and exit with status 2."""
