-- Stores the answer of a node, which would stay forever without an expiry.
--
-- KEYS[1]  the answers to the question (list)
-- ARGV[1]  the answer
-- ARGV[2]  seconds
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
