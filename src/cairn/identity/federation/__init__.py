"""Users of identity providers: who they are here (mapping), and how they sign in (OpenID Connect)."""
