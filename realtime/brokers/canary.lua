#!lua flags=allow-oom
-- Send a node's canary to the node itself, as far as Redis takes publications at all.
--
-- ARGV[1]  Redis channel
-- ARGV[2]  what to send
--
-- A plain PUBLISH works on a replica, where every publication is refused: a node that clings to a master which was
-- demoted would call itself live. A script whose first line does not say no-writes is refused there as well
-- (redis.io/docs/latest/develop/programmability/lua-api, "Script flags"). A full Redis is another matter: it refuses
-- publications and delivers what it took, so the canary flies.
return redis.call('PUBLISH', ARGV[1], ARGV[2])
