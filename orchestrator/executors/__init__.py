"""What executes runs: each executor behind the protocol of ``base``."""
