"""Informers, stores, work queues and workers. Knows no resource type."""
