"""The generic two-way loop over a resource: pair, decide, execute intents; ledger, scan, fence, deletion guard."""
