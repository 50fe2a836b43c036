-- One entry is taken out of where it is, and perhaps waits again. Follows queue.lua.
--
-- ARGV[1]  where: the index of its key
-- ARGV[2]  the entry, as it is there
-- ARGV[3]  the entry as it waits; '' if it is gone for good
--
-- Returns whether it was there.
local key = KEYS[tonumber(ARGV[1])]
local found = key == LATER and redis.call('ZREM', key, ARGV[2]) or key ~= LATER and redis.call('LREM', key, 1, ARGV[2])
if found == 1 then
    grow(#ARGV[3] - #ARGV[2])
    if ARGV[3] ~= '' then
        redis.call('RPUSH', WAITING, ARGV[3])
    end
end
return found
