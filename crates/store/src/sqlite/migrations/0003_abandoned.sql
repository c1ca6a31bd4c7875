-- It ended without the engine's word on its last run.
ALTER TABLE execution ADD COLUMN abandoned INTEGER NOT NULL DEFAULT 0;
