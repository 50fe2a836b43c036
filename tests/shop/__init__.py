"""An app of the foreign host project, with fallbacks of its own."""
