-- Moves the next entry into a hand, like BLMOVE, which Redis refuses when it is full.
--
-- KEYS  waiting (list), the hand's list
--
-- Returns the entry, or nil.
return redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
