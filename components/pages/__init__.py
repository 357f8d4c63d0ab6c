"""What people look at: the report page and what it is drawn from."""
