"""How things look: tables for people, JSON for programs."""
