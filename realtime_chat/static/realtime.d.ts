/** realtime.js: rooms of a realtime_chat daemon on any page. docs/howto/realtime-js.rst explains it. */
declare global {
  namespace Realtime {
    type Transport = 'websocket' | 'sse' | 'poll' | 'jsonp';

    /** Anything that JSON can say. */
    type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

    interface Options {
      /** What a guest calls itself, 1 to 64 characters. */
      name?: string;
      /** A client that was issued before; otherwise one is kept in `storage`. */
      client?: string;
      token?: string;
      /** Asked before each connection: gives the token, a promise of it, or calls back. */
      getToken?(callback: (error: Trouble | null, token?: string) => void): string | PromiseLike<string> | void;
      /** Those that may be used, best first; all that work here if left out. */
      transports?: Transport[];
      /** Where the client is kept: for the tab (if left out), for all tabs of the browser, nowhere, or in your own. */
      storage?: 'session' | 'local' | false | Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>;
    }

    interface Trouble extends Error {
      code: string;
      temporary: boolean;
      /** The room that could not be joined. */
      room?: string;
    }

    interface User {
      id: string;
      name: string;
      guest: boolean;
    }

    interface Member extends User {
      state: { [name: string]: Json };
    }

    interface Message<Data = any> {
      type: 'message' | 'signal';
      room: string;
      event: string;
      data: Data;
      /** Null where another program published a signal in Redis. */
      from: { id: string; name: string } | null;
      /** Milliseconds since 1970, by the server's clock. */
      at: number;
      own: boolean;
      signal: boolean;
      /** Of a message; a signal has none. */
      position?: string;
      key?: string;
    }

    interface State {
      state: 'connecting' | 'connected' | 'reconnecting' | 'closed';
      transport: Transport | null;
      /** Seconds until the next attempt, where one is waited for. */
      retryIn: number | null;
      reason: Trouble | null;
    }

    interface Published {
      position: string;
      key: string;
    }

    /** A message on its way. It is a promise, but for browsers that have none: there `then` and `catch` are missing. */
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
      /** Those whose name or state is another now. */
      changed: Member[];
    }

    interface Page {
      messages: Message[];
      position: string;
      /** Whether there may be more before (or, with `since`, after) this page. */
      more: boolean;
    }

    type Callback<Result> = (error: Trouble | null, result: Result) => void;

    interface Room {
      readonly name: string;
      readonly position: string | null;
      readonly top: string | null;
      readonly joined: boolean;
      readonly count: number;
      readonly members: Member[];
      /** False where the room is too large for its members to be listed. */
      readonly membersKnown: boolean;

      on(event: '$joined', fn: (joined: { recovered: boolean; count: number }) => void): this;
      on(event: '$presence', fn: (presence: Presence) => void): this;
      on(event: '$reset', fn: (gap: { position: string | null; recovered: false; reason: string }) => void): this;
      on(event: '$pending' | '$sent' | '$failed', fn: (entry: Entry) => void): this;
      on(event: '$error', fn: (error: Trouble) => void): this;
      on(event: string, fn: (data: any, message: Message) => void): this;
      off(event: string, fn?: (...given: any[]) => void): this;

      publish(data: any, options?: { key?: string }, callback?: Callback<Published>): Entry;
      publish(data: any, callback: Callback<Published>): Entry;
      publish(event: string, data: any, options?: { key?: string }, callback?: Callback<Published>): Entry;
      publish(event: string, data: any, callback: Callback<Published>): Entry;

      /** Whether it was sent; it reaches who is here now, or nobody. */
      signal(event: string, data?: any): boolean;

      history(
        options?: { before?: string | null; since?: string | null; limit?: number } | null,
        callback?: Callback<Page>
      ): Promise<Page>;
      loadMembers(callback?: Callback<Member[]>): Promise<Member[]>;
      /** This user of the room hears no more; the server is told when the last one has left. */
      leave(): void;
    }

    interface Connection {
      readonly state: State['state'];
      readonly transport: Transport | null;
      readonly user: User | null;

      on(event: '$state', fn: (state: State) => void): this;
      on(event: '$error', fn: (error: Trouble) => void): this;
      off(event: string, fn?: (...given: any[]) => void): this;

      /** A user of the room, with listeners of its own; joined as soon as there is a connection. */
      room(name: string, options?: { last?: number; since?: string | null }): Room;
      /** What others see of oneself in `member.state`. */
      setState(state: { [name: string]: Json }): void;
      /** Tries to connect now, if it waits. */
      retry(): void;
      close(): void;
    }

    /** @param url the daemon's address; where the script came from, if empty or left out */
    function connect(url?: string, options?: Options): Connection;
    function connect(options: Options): Connection;
  }
}

export = Realtime;
