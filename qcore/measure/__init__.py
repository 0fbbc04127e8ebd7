"""Measures: metrics, statistics, size, latency and energy. Import the module you need; this one imports nothing."""
