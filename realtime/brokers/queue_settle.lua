-- An attempt is over. Follows queue.lua.
--
-- KEYS[6]  the hand's list
-- ARGV[1]  the entry, as it was taken
-- ARGV[2]  'handled', 'retried' or 'dead'
-- ARGV[3]  unless it was handled: the entry as it is written from now on
-- ARGV[4]  if it is tried again: after how many milliseconds
--
-- Returns {'1' or, if somebody else has taken it over meanwhile, '0'; what else is in the hand or nil}.
local mine = redis.call('LREM', KEYS[6], 1, ARGV[1])
if mine == 1 then
    if ARGV[2] == 'retried' then
        redis.call('ZADD', LATER, milliseconds(now() + ARGV[4]), ARGV[3])
    elseif ARGV[2] == 'dead' then
        redis.call('RPUSH', DEAD, ARGV[3])
    end
    grow((ARGV[2] == 'handled' and 0 or #ARGV[3]) - #ARGV[1])
    count(ARGV[2])
end
return {string.format('%d', mine), redis.call('LINDEX', KEYS[6], 0)}
