"""What an agent is told: advice from facts, briefs with the state of things filled in."""
