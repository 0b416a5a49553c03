"""As written -> validated, frozen: settings, policy, secrets, watch."""
