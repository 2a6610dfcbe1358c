"""Controls that do not depend on layers."""
