"""Where jobs run: one module a platform, behind the Backend protocol of base.py."""
