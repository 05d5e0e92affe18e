/** realtime.js: rooms of a realtime_chat daemon on any page. docs/howto/realtime-js.rst explains it. */
declare global {
  namespace Realtime {
    type Transport = 'websocket' | 'sse' | 'poll' | 'jsonp';

    /** Any JSON value. */
    type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

    interface Options {
      /** The guest's name, 1 to 64 characters. */
      name?: string;
      /** The secret of an earlier client; if it is left out, one is kept in `storage`. */
      client?: string;
      /** An address of your site that gives `{"token": …}` to the visitor, or 204 to a guest. It gets the page's cookies. */
      tokenUrl?: string;
      /**
       * In place of `tokenUrl`: a token, or what is called for one. It returns the token or a promise of it, or calls
       * back; null stands for a guest. An error whose `status` is 401 or 403, or whose `code` is `unauthorized`, ends
       * the connection. After another one it is called again.
       */
      token?: string | TokenFunction;
      /** The transports that may be used, the best one first; all if it is left out. */
      transports?: Transport[];
      /** Where the client is kept: per tab (default), for all tabs of the browser, nowhere, or in an object of yours. */
      storage?: 'session' | 'local' | false | Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>;
    }

    type TokenFunction = (
      callback: (error: unknown, token?: string | null) => void
    ) => string | null | void | PromiseLike<string | null>;

    interface Trouble extends Error {
      code: string;
      temporary: boolean;
      /** The room that could not be joined, if it is about one. */
      room?: string;
    }

    interface User {
      id: string;
      name: string;
      guest: boolean;
    }

    /** Our own user. */
    interface Identity extends User {
      /** What the site vouches for, from the token. */
      info?: { [name: string]: Json };
    }

    interface Member extends User {
      state: { [name: string]: Json };
    }

    interface Message<Data = any> {
      type: 'message' | 'signal';
      room: string;
      event: string;
      data: Data;
      /** Null if another program published a signal through Redis. */
      from: { id: string; name: string; guest?: true } | null;
      /** Milliseconds since 1970 by the server's clock. */
      at: number;
      own: boolean;
      signal: boolean;
      /** A signal has none. */
      position?: string;
      key?: string;
    }

    /** A property was set; or removed, and then it has no `data`. */
    interface Property<Data = any> {
      type: 'property';
      room: string;
      name: string;
      data?: Data;
      /** Left out if it was found to be gone. */
      from?: { id: string; name: string; guest?: true };
      at?: number;
      own: boolean;
      position: string;
      key?: string;
    }

    interface State {
      state: 'connecting' | 'connected' | 'reconnecting' | 'closed';
      transport: Transport | null;
      /** Seconds until the next attempt, if it waits for one. */
      retryIn: number | null;
      reason: Trouble | null;
    }

    interface Published {
      position: string;
      key: string;
    }

    /** A message that is being published. It is a promise; browsers without promises have no `then` and `catch`. */
    interface Entry extends PromiseLike<Published> {
      key: string;
      event: string;
      data: any;
      state: 'pending' | 'sent' | 'failed' | 'unknown';
      error: Trouble | null;
      position: string | null;
      catch<B = never>(failed?: ((error: Trouble) => B | PromiseLike<B>) | null): Promise<Published | B>;
    }

    interface Presence {
      count: number;
      members: Member[];
      joined: Member[];
      left: Member[];
      /** Members whose name or state has changed. */
      changed: Member[];
    }

    interface Page {
      messages: Message[];
      position: string;
      /** Whether there may be more messages before this page (with `since`: after it). */
      more: boolean;
    }

    type Callback<Result> = (error: Trouble | null, result: Result) => void;

    interface Room {
      readonly name: string;
      readonly position: string | null;
      readonly top: string | null;
      readonly joined: boolean;
      /** What we may do: `r` read, `w` write, `s` signal, `p` see who is there, `m` moderate. Null before it is known. */
      readonly rights: string | null;
      readonly count: number;
      readonly members: Member[];
      /** False if the room is so large that its members are not listed. */
      readonly membersKnown: boolean;
      /** The present values of its properties by name, if a handle was made with the option `properties`. */
      readonly properties: { readonly [name: string]: any };

      on(event: '$joined', fn: (joined: { recovered: boolean; count: number }) => void): this;
      on(event: '$presence', fn: (presence: Presence) => void): this;
      on(event: '$property', fn: (property: Property) => void): this;
      on(event: '$reset', fn: (gap: { position: string | null; recovered: false; reason: string }) => void): this;
      on(event: '$rights', fn: (rights: string | null) => void): this;
      /** The server has ended it: we may read it no longer. */
      on(event: '$left', fn: (left: { reason: string }) => void): this;
      on(event: '$pending' | '$sent' | '$failed', fn: (entry: Entry) => void): this;
      on(event: '$error', fn: (error: Trouble) => void): this;
      on(event: string, fn: (data: any, message: Message) => void): this;
      off(event: string, fn?: (...given: any[]) => void): this;

      publish(data: any, options?: { key?: string }, callback?: Callback<Published>): Entry;
      publish(data: any, callback: Callback<Published>): Entry;
      publish(event: string, data: any, options?: { key?: string }, callback?: Callback<Published>): Entry;
      publish(event: string, data: any, callback: Callback<Published>): Entry;

      /**
       * Sets a property; without data it is removed. It is sent when there is a connection. If it is set again before
       * that, only the last value is sent.
       */
      set(name: string, data?: any, callback?: Callback<{ position: string }>): Promise<{ position: string }>;

      /** Returns whether it was sent. It reaches only those who are in the room now. */
      signal(event: string, data?: any): boolean;

      history(
        options?: { before?: string | null; since?: string | null; limit?: number } | null,
        callback?: Callback<Page>
      ): Promise<Page>;
      loadMembers(callback?: Callback<Member[]>): Promise<Member[]>;
      /** Stops the events of this handle. The room is left when its last handle is. */
      leave(): void;
    }

    interface Connection {
      readonly state: State['state'];
      readonly transport: Transport | null;
      readonly user: Identity | null;
      /** The secret that makes us the same client again. */
      readonly client: string | null;

      /** Who we are is known, or has changed. If somebody else has come, each room has had a `$reset` before. */
      on(event: 'identity', fn: (user: Identity) => void): this;
      /** The site or the server has refused us. The connection is closed. */
      on(event: 'unauthorized', fn: (error: Trouble) => void): this;
      on(event: '$state', fn: (state: State) => void): this;
      on(event: '$error', fn: (error: Trouble) => void): this;
      off(event: string, fn?: (...given: any[]) => void): this;

      /** A handle of the room, with its own listeners. It is joined as soon as there is a connection. */
      room(name: string, options?: { last?: number; since?: string | null; properties?: boolean }): Room;
      /** Sets what others see in `member.state`. */
      setState(state: { [name: string]: Json }): void;
      /** Connects now, if it waits for the next attempt. */
      retry(): void;
      /** Asks for a new token now, as when the visitor has logged in or out without a new page. */
      renew(): void;
      close(): void;
    }

    /** @param url the daemon's URL; if it is empty or left out, the one that the script was loaded from */
    function connect(url?: string, options?: Options): Connection;
    function connect(options: Options): Connection;
  }
}

export = Realtime;
