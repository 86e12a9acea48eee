"""Everything on disk: artifacts by id, Parquet tables, locks between processes, remote folders."""
