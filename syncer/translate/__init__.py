"""Pure parts shared by resources: metadata, labels and selectors, pod specs, owned-subset diff."""
