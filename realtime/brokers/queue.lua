-- What all scripts about the queue share. The words are explained in realtime/brokers/queue_commands.py.
--
-- KEYS  waiting (list), later (sorted set), dead (list), hands (sorted set), counts (hash)
--
-- The lists of the hands are not among KEYS, since only the script knows which of them it will touch; their names carry the
-- same hash tag, so on a cluster they are on the same node.
local WAITING, LATER, DEAD, HANDS, COUNTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function milliseconds(number)
    return string.format('%.0f', number)
end

-- All that is queued, in hands too, has so many bytes more or less. Only scripts change what an entry says, or let it go;
-- BLMOVE carries entries and changes nothing.
local function grow(bytes)
    redis.call('HINCRBY', COUNTS, 'bytes', bytes)
end

local function count(what)
    redis.call('HINCRBY', COUNTS, what, 1)
end
