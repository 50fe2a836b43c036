-- The first half of both scripts: the position of a channel, always in a living epoch (ADR-0006).
--
-- KEYS[1]  hash: replid, life, epoch, offset
-- ARGV[1]  sixteen random hex digits, in case a new epoch begins here
--
-- A counter belongs to one history of writes. Redis names its history by master_replid, which changes at every
-- restart and every promotion; a counter that was written under another one may have lost its last steps.
--
-- It also changes when the first replica attaches, and an hour after the last one has left (replication.c:
-- createReplicationBacklog, replicationCron). Then nothing is lost and the epoch goes on: the process that wrote the counter
-- is still the same one, it has heard nothing from any master and loaded nothing since, and there is no earlier history that
-- it would go on with (replid2), as there is after each promotion. None of them alone would do: replid2 is forgotten after
-- that hour, CONFIG RESETSTAT sets what was heard to 0, and two loads may find the same number of keys.
--
-- Redis counts expiry by the wall clock. A counter that has two days and is read once a minute by each node that listens
-- outlives a jump ahead by one. A counter at offset 0 can be made by anybody who may subscribe, as fast as he can: there
-- a read buys five minutes of one counter, whether he makes many or reads one again and again.
local LISTENED = 2 * 86400
local EACH_READ = 300

-- This process, how many bytes it has heard from masters, and how many keys it found when it last loaded: what a master
-- sent, or a file. '' where Redis does not tell.
local function life()
    local process = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
    local heard = string.match(redis.call('INFO', 'stats'), 'total_net_repl_input_bytes:(%d+)')
    local loaded = string.match(redis.call('INFO', 'persistence'), 'rdb_last_load_keys_loaded:(%d+)')
    return process and heard and loaded and table.concat({process, heard, loaded}, ':') or ''
end

local function living(key, fresh)
    local info = redis.call('INFO', 'replication')
    local replid = string.match(info, 'master_replid:(%x+)')
    local known = redis.call('HMGET', key, 'replid', 'epoch', 'offset')
    if known[1] == replid and known[2] and known[3] then
        return known[2], known[3]
    end
    local now = life()
    local wrote = redis.call('HMGET', key, 'life')[1]
    local same = now ~= '' and wrote == now and string.match(info, 'master_replid2:0+%s')
    if same and known[2] and known[3] then
        redis.call('HSET', key, 'replid', replid)
        return known[2], known[3]
    end
    redis.call('HSET', key, 'replid', replid, 'life', now, 'epoch', fresh, 'offset', '0')
    return fresh, '0'
end

local function keep(key, offset)
    local seconds = LISTENED
    if offset == '0' then
        seconds = math.min(LISTENED, math.max(0, redis.call('TTL', key)) + EACH_READ)
    end
    redis.call('EXPIRE', key, seconds)
end
