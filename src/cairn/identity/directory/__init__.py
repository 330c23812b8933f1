"""Users and groups of a domain that an LDAP server or Active Directory keeps.

Rows and directory meet so. The directory is asked first, outside of any transaction; what it says is written
through to ordinary rows (`mirror`), and everything else in identity works on those: assignments, lists,
tokens. A row of the directory's has an entry in `store.entries`, which remembers under which id of the
directory it is known; its own id is the one that Keystone would have made of that. Whoever is not in the
directory any more keeps the entry and the roles for a while, hidden and without a token that works: a
directory that was emptied by mistake must not cost anybody's roles.

    config      what the domain has set, checked
    client      one connection: connect, bind, search (blocking; ldap3)
    pool        a bounded number of threads and connections for each domain, with deadlines
    tree        users and groups as that domain's directory has them
    mirror      what was seen becomes rows; what is missing is gone
    directories all of the cloud's directories: sign-in, and looking before a request is answered
    routes      which requests look at a directory first, and which are refused because it is read-only
    keeper      looks by itself, so that who was disabled or deleted is noticed
"""
