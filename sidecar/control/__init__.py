"""The admin plane: health, API, feedback, the control loop's tick."""
