"""What every component stands on: contracts, errors, storage, tracking, seeding."""
