"""magicgui controls that do not depend on layers."""
