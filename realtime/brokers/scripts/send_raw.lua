#!lua flags=allow-oom
-- Sends a node's canary to the node itself, if Redis accepts publications at all.
--
-- ARGV[1]  Redis channel
-- ARGV[2]  the bytes to send
--
-- A plain PUBLISH works on a replica, where every publication is refused: a node that is still
-- connected to a demoted master would appear to be live. A script without the flag no-writes in its
-- first line is refused there, too (redis.io/docs/latest/develop/programmability/lua-api, "Script
-- flags"). A full Redis is different: it refuses new publications but delivers accepted ones, so
-- the canary is allowed.
return redis.call('PUBLISH', ARGV[1], ARGV[2])
