-- Ends an attempt. Follows queue.lua.
--
-- KEYS[6]  the hand's list
-- ARGV[1]  the entry, as it was taken
-- ARGV[2]  'handled', 'retried' or 'dead'
-- ARGV[3]  unless it was handled: the entry to store
-- ARGV[4]  for a retry: the delay in milliseconds
--
-- Returns {'1', or '0' if another worker has taken it over; the next entry in the hand or nil}.
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
