"""What tests are made of: seeded checkpoints, formats, reference runs, audio."""
