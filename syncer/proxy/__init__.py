"""What the syncer serves itself: admission for Services, health, metrics."""
