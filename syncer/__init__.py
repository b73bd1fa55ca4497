"""The syncer: one asyncio process that makes a namespace of a host cluster serve as a whole virtual cluster."""
