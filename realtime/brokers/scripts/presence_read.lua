-- Reads the members of a channel. Follows presence.lua.
--
-- KEYS  members, nodes
-- ARGV  1 the maximum number of members, 2 their maximum size in bytes
--
-- Returns {client, info, …}, or the number of members if there are more. Ignores members of expired
-- nodes, swept or not. Reads in portions and stops at the limit: HGETALL would copy ten thousand
-- infos of 4 KiB, 40 MB, only to refuse them.
local here, is_living, most = KEYS[1], living(KEYS[2]), tonumber(ARGV[2])
local number = redis.call('HLEN', here)
if number > tonumber(ARGV[1]) then
    return number
end
local found, seen, bytes, cursor = {}, {}, 0, '0'
repeat
    local scanned = redis.call('HSCAN', here, cursor, 'COUNT', 100)
    cursor = scanned[1]
    local entries = scanned[2]
    for i = 1, #entries, 2 do
        local client = entries[i]
        local node, _, info = parts(entries[i + 1])
        if not seen[client] and is_living(node) then
            seen[client] = true
            bytes = bytes + #client + #info + 4
            if bytes > most then
                return number
            end
            found[#found + 1] = client
            found[#found + 1] = info
        end
    end
until cursor == '0'
return found
