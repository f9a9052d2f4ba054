"""Functions that depend on no other room: files, messages, losses, masks, schedules."""
