"""A supervised node: what to start (`plan`), supervisord's configuration (`conf`), the running supervisord
(`supervisor`), its state (`rpc`, `watch`) and output (`follow`)."""
