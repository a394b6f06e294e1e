"""PostgreSQL + pgvector: the only place that speaks SQL."""
