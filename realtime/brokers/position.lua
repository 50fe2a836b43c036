-- The first half of both scripts: the position of a channel, always in a living epoch (ADR-0006).
--
-- KEYS[1]  hash: replid, epoch, offset
-- ARGV[1]  sixteen random hex digits, in case a new epoch begins here
--
-- A counter belongs to one history of writes. Redis names its history by master_replid, which changes at every
-- restart and every promotion; a counter that was written under another one may have lost its last steps.
--
-- Redis counts expiry by the wall clock. A counter that has two days and is read once a minute by each node that listens
-- outlives a jump ahead by one. A counter at offset 0 can be made by anybody who may subscribe, as fast as he can: there
-- a read buys five minutes of one counter, whether he makes many or reads one again and again.
local LISTENED = 2 * 86400
local EACH_READ = 300

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
    local life = LISTENED
    if offset == '0' then
        life = math.min(LISTENED, math.max(0, redis.call('TTL', key)) + EACH_READ)
    end
    redis.call('EXPIRE', key, life)
end
