-- Moves the next entry into a hand, as BLMOVE does, which a full Redis refuses.
--
-- KEYS  waiting (list), the hand's list
--
-- Returns the entry, or nil.
return redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
