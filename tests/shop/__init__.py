"""An app of the foreign host project, with its own fallbacks."""
