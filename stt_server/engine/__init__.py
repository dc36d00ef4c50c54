"""Models behind one interface: `base.py` says what an engine is."""
