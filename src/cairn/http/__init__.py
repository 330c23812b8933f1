"""The shell that all services share: routes, tokens, microversions, policy, bodies, faults, pages."""
