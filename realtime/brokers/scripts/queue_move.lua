-- Removes one entry from its place, and requeues it unless it is to be deleted. Follows queue.lua.
--
-- ARGV[1]  the place: the index of its key
-- ARGV[2]  the entry, as stored there
-- ARGV[3]  the entry to requeue; '' to delete it
--
-- Returns whether the entry was there.
local key = KEYS[tonumber(ARGV[1])]
local found = key == LATER and redis.call('ZREM', key, ARGV[2]) or key ~= LATER and redis.call('LREM', key, 1, ARGV[2])
if found == 1 then
    grow(#ARGV[3] - #ARGV[2])
    if ARGV[3] ~= '' then
        redis.call('RPUSH', WAITING, ARGV[3])
        wake()
    end
end
return found
