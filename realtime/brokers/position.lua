-- The first half of both scripts: the position of a channel, always in a living epoch (ADR-0006).
--
-- KEYS[1]  hash: replid, epoch, offset
-- ARGV[1]  sixteen random hex digits, in case a new epoch begins here
--
-- A counter belongs to one history of writes. Redis names its history by master_replid, which changes at every
-- restart and every promotion; a counter that was written under another one may have lost its last steps.
local LISTENED = 86400
local UNUSED = 300

local function living(key, fresh)
    local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
    local known = redis.call('HMGET', key, 'replid', 'epoch', 'offset')
    if known[1] == replid and known[2] and known[3] then
        return known[2], known[3]
    end
    redis.call('HSET', key, 'replid', replid, 'epoch', fresh, 'offset', '0')
    return fresh, '0'
end

local function keep(key, offset)
    redis.call('EXPIRE', key, offset == '0' and UNUSED or LISTENED)
end
