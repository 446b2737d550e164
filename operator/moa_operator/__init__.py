"""The operator: makes a MoAProfile a running, repaired and truthfully reported router."""
