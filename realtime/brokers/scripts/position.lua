-- The first half of publish.lua and read_position.lua: the position of a channel, always in a valid epoch (ADR-0006).
--
-- key    hash of a channel: replid, life, epoch, offset
-- base   hash of the base: the same, born, closing, and a field for each channel that was
--        published under it
-- fresh  sixteen random hex digits, in case a new epoch starts here
--
-- A counter belongs to one history of writes. Redis identifies its history by master_replid, which
-- changes at every restart and every promotion. A counter that was written under another id may
-- have lost its last increments.
--
-- It also changes when the first replica attaches, and an hour after the last one has left
-- (replication.c: createReplicationBacklog, replicationCron). In that case nothing is lost and the
-- epoch continues: the process that wrote the counter is still the same, it has received nothing
-- from a master and loaded nothing since, and it continues no earlier history (replid2), as it does
-- after each promotion. No single condition suffices: replid2 is cleared after that hour, CONFIG
-- RESETSTAT resets the received bytes to 0, and two loads may find the same number of keys.
--
-- Redis measures expiry by the wall clock. A counter that expires after two days and is read once a
-- minute by each subscribed node survives a clock that jumps ahead by one day; one that had nearly
-- expired when it was first read, after six hours.
--
-- A channel without publications has no key, because any subscriber could create keys otherwise
-- (ADR-0026). It is at offset 0 of an epoch derived from the *base epoch* and its name, and its
-- first publication continues that epoch. No two channels share an epoch, so epoch and offset
-- alone identify a publication for fallback workers. The base remembers, by a hash, each channel
-- that was published to under it: if the key of such a channel is missing, its counter was lost,
-- and a random epoch starts. Thus no offset is used twice if a key expires, is evicted or is
-- deleted.
--
-- The base grows with each channel, so it is replaced periodically. Before that, it is *closing*
-- for a while: each read then creates a key under the old base epoch, and nodes read the channels
-- of their listeners once a minute, so listeners keep their epoch.
--
-- A script defines its functions and what they share in each call, so there are few of both.
local LISTENED = 2 * 86400

-- What cannot change while a script runs, once it has been read: INFO replication as `history`, the
-- replication id in it, and the life of the process.
local known = {}

-- Handles a counter that cannot simply continue. The helpers are defined inside, which saves 1 µs of
-- each publication.
local function begin_or_recover(key, base, fresh, is_publication)
    local BASE_SECONDS = 86400
    local BASE_CHANNELS = 100000
    local CLOSING_SECONDS = 300

    -- The id of this process, the bytes received from masters, and the number of keys in its last
    -- load, from a master or a file. '' if Redis does not report them.
    local function current_life()
        if not known.life then
            local process = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
            local heard = string.match(redis.call('INFO', 'stats'), 'total_net_repl_input_bytes:(%d+)')
            local loaded = string.match(redis.call('INFO', 'persistence'), 'rdb_last_load_keys_loaded:(%d+)')
            known.life = process and heard and loaded and table.concat({process, heard, loaded}, ':') or ''
        end
        return known.life
    end

    -- Returns epoch and offset if the key exists and belongs to this history of writes, then
    -- whether the key exists.
    local function stored(from)
        local fields = redis.call('HMGET', from, 'replid', 'epoch', 'offset')
        local exists = fields[2] and fields[3]
        if fields[1] == known.replid and exists then
            return fields[2], fields[3], true
        end
        if exists and string.match(known.history, 'master_replid2:0+%s') then
            local now = current_life()
            if now ~= '' and redis.call('HGET', from, 'life') == now then
                redis.call('HSET', from, 'replid', known.replid)
                return fields[2], fields[3], true
            end
        end
        return nil, nil, exists
    end

    local function begin(at, epoch)
        redis.call('HSET', at, 'replid', known.replid, 'life', current_life(), 'epoch', epoch, 'offset', '0')
    end

    -- Returns the base epoch, and whether the base is closing.
    local function base_epoch()
        local epoch = stored(base)
        local now = tonumber(redis.call('TIME')[1])
        local times = redis.call('HMGET', base, 'born', 'closing')
        local born, closing = tonumber(times[1]), tonumber(times[2])
        -- Compares absolute differences, so that a clock that was set back does not keep a base for
        -- years.
        if not epoch or not born or closing and math.abs(now - closing) >= CLOSING_SECONDS then
            redis.call('UNLINK', base)
            begin(base, fresh)
            redis.call('HSET', base, 'born', now)
            return fresh, false
        end
        if not closing and (math.abs(now - born) >= BASE_SECONDS or redis.call('HLEN', base) > BASE_CHANNELS) then
            redis.call('HSET', base, 'closing', now)
            closing = now
        end
        return epoch, closing
    end

    local epoch, offset, exists = stored(key)
    if epoch then
        return epoch, offset
    end
    -- One script can begin epochs of several channels. In this order the text is none of those
    -- from which the base derives epochs, even if the base began in this script, too.
    epoch = string.sub(redis.sha1hex(key .. ' ' .. fresh), 1, 16)
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
    begin(key, epoch)
    return epoch, '0'
end

-- Returns epoch and offset of a channel. Creates a key only for a publication, a lost counter, or a
-- closing base.
local function current_position(key, base, fresh, is_publication)
    if not known.replid then
        known.history = redis.call('INFO', 'replication')
        known.replid = string.match(known.history, 'master_replid:(%x+)')
    end
    local fields = redis.call('HMGET', key, 'replid', 'epoch', 'offset')
    if fields[1] == known.replid and fields[2] and fields[3] then
        return fields[2], fields[3]
    end
    return begin_or_recover(key, base, fresh, is_publication)
end
