-- The first half of both scripts: the position of a channel, always in a living epoch (ADR-0006).
--
-- KEYS[1]  hash of the channel: replid, life, epoch, offset
-- KEYS[2]  hash of the base: the same, born, closing, and a field for each channel that was published under it
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
-- outlives a jump ahead by one.
--
-- A channel that was never published has no key, since anybody who may subscribe could make one (ADR-0026). It stands at
-- offset 0 of an epoch that follows from the *base epoch* and its name, which the first publication goes on with. So no two
-- channels share an epoch: epoch and offset alone name a publication, for the workers of fallbacks. The base remembers, by a hash, each channel that
-- was published under it: one of these whose key is missing has lost its counter, and begins a random epoch. So no
-- offset is handed out twice, whether a key expired, was evicted or was deleted.
--
-- What the base remembers grows, so the base is replaced. Before that it *closes* for a while: each read then makes a key
-- under the old base epoch, and nodes read the channels of their listeners once a minute. So listeners keep their epoch.
local LISTENED = 2 * 86400
local EACH_READ = 300

-- What to do where the counter does not simply go on. Its parts are defined inside, since a script defines all its functions
-- anew in each call: that took 1 µs of each publication.
local function begin_or_recover(key, base, fresh, is_publication)
    local BASE_SECONDS = 86400
    local BASE_CHANNELS = 100000
    local CLOSING_SECONDS = 300

    -- This process, how many bytes it has heard from masters, and how many keys it found when it last loaded: what a
    -- master sent, or a file. '' where Redis does not tell.
    local function life()
        local process = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
        local heard = string.match(redis.call('INFO', 'stats'), 'total_net_repl_input_bytes:(%d+)')
        local loaded = string.match(redis.call('INFO', 'persistence'), 'rdb_last_load_keys_loaded:(%d+)')
        return process and heard and loaded and table.concat({process, heard, loaded}, ':') or ''
    end

    -- Returns the replication id, then epoch and offset if the key exists and belongs to this history of writes, then
    -- whether the key exists.
    local function stored(from)
        local info = redis.call('INFO', 'replication')
        local replid = string.match(info, 'master_replid:(%x+)')
        local known = redis.call('HMGET', from, 'replid', 'epoch', 'offset')
        local exists = known[2] and known[3]
        if known[1] == replid and exists then
            return replid, known[2], known[3], true
        end
        if exists and string.match(info, 'master_replid2:0+%s') then
            local now = life()
            if now ~= '' and redis.call('HGET', from, 'life') == now then
                redis.call('HSET', from, 'replid', replid)
                return replid, known[2], known[3], true
            end
        end
        return replid, nil, nil, exists
    end

    local function begin(at, replid, epoch)
        redis.call('HSET', at, 'replid', replid, 'life', life(), 'epoch', epoch, 'offset', '0')
    end

    -- Returns the base epoch, and whether the base closes.
    local function base_epoch()
        local replid, epoch = stored(base)
        local now = tonumber(redis.call('TIME')[1])
        local times = redis.call('HMGET', base, 'born', 'closing')
        local born, closing = tonumber(times[1]), tonumber(times[2])
        -- By the distance, so that a clock that was set back does not keep a base for years.
        if not epoch or not born or closing and math.abs(now - closing) >= CLOSING_SECONDS then
            redis.call('UNLINK', base)
            begin(base, replid, fresh)
            redis.call('HSET', base, 'born', now)
            return fresh, false
        end
        if not closing and (math.abs(now - born) >= BASE_SECONDS or redis.call('HLEN', base) > BASE_CHANNELS) then
            redis.call('HSET', base, 'closing', now)
            closing = now
        end
        return epoch, closing
    end

    local replid, epoch, offset, exists = stored(key)
    if epoch then
        return epoch, offset
    end
    epoch = fresh
    if not exists then
        local common, closing = base_epoch()
        if redis.call('HEXISTS', base, string.sub(redis.sha1hex(key), 1, 16)) == 0 then
            local own = string.sub(redis.sha1hex(common .. ' ' .. key), 1, 16)
            if not is_publication and not closing then
                return own, '0'
            end
            epoch = own
        end
    end
    begin(key, replid, epoch)
    return epoch, '0'
end

-- Returns epoch and offset of a channel. Only a publication, a lost counter and a base that closes make a key.
local function living(key, base, fresh, is_publication)
    local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
    local known = redis.call('HMGET', key, 'replid', 'epoch', 'offset')
    if known[1] == replid and known[2] and known[3] then
        return known[2], known[3]
    end
    return begin_or_recover(key, base, fresh, is_publication)
end

-- A key at offset 0 can be made by anybody who may subscribe while the base closes: there a read buys five minutes of one
-- counter. EXPIRE is a write, also where there is no key: a replica refuses the read.
local function keep(key, offset)
    local seconds = LISTENED
    if offset == '0' then
        seconds = math.min(LISTENED, math.max(0, redis.call('TTL', key)) + EACH_READ)
    end
    redis.call('EXPIRE', key, seconds)
end
