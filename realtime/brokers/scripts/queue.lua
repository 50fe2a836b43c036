-- Shared by all scripts about the queue. realtime/brokers/queue_commands.py explains the terms.
--
-- KEYS  waiting (list), later (sorted set), dead (list), hands (sorted set), counts (hash)
--
-- The lists of the hands are not in KEYS, because only the script knows which of them it will
-- access; their names carry the same hash tag, so on a cluster they are on the same node.
local WAITING, LATER, DEAD, HANDS, COUNTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function milliseconds(number)
    return string.format('%.0f', number)
end

-- Changes the total size of all entries, including those in hands. Only scripts change or delete
-- entries; BLMOVE moves them unchanged.
local function grow(bytes)
    redis.call('HINCRBY', COUNTS, 'bytes', bytes)
end

local function count(what)
    redis.call('HINCRBY', COUNTS, what, 1)
end

-- Announces that entries wait. A worker cannot wait for the 64 lists of a cluster in BLMOVE, so it
-- subscribes to their names instead. They also look each second, so this may fail.
local function wake()
    if IS_SHARDED then
        redis.pcall(PUBLISH, WAITING, '')
    end
end
